"""A tiled, split attention kernel in software, as badly rounded as its model allows."""

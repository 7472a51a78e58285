"""The contract as a state machine: a head's step and the life of a cache, searched, proved, and compared with the code.

`ladder_model` and `life_model` are the two machines; `models` searches them to their last reachable state;
`certkv.proofs.lemmas.ladder` and `certkv.proofs.lemmas.cache_life` prove their steps for any size; `stateful` drives
them beside the reference with the same events.
"""

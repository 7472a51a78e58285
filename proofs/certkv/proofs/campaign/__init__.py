"""The soundness campaign: random and adversarial head-steps of the reference, each judged against exact attention."""

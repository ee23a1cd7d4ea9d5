//! From logits to text: sampling, sessions, generation, scoring.

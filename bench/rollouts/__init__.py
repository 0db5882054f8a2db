"""What the two benches of the rollout share: a project with proofs and a Go, what traffic felt, where the time went."""

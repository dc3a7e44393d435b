"""R1-Reward: a judge that reasons before it chooses, trained by StableReinforce."""

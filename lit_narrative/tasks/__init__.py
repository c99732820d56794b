"""Tasks without Lightning: formats, rules, simulators, scores, rewards."""

"""The card game: a rule in words, a hand of cards, one number or label to answer."""

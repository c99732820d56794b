"""What a terminal shows of storyworlds: plays of one, and what is right and wrong with files of them."""

"""Training networks to segment images, and looking at what they learnt."""

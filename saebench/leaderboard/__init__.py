"""Leaderboards: submissions that anyone can check, and the site that is made of them."""

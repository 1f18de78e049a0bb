"""Deckster's own tests, as a user of Sidestream would write them."""

"""Tests of this application, as a user of Sidestream would write them."""

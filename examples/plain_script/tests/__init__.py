"""Tests of this script, as a user of Sidestream would write them."""

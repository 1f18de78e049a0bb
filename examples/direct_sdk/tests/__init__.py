"""Tests of these applications, as a user of Sidestream would write them."""

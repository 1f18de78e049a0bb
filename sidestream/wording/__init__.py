"""How figures, times, names and their trustworthiness are said to people, in a terminal and on the page alike."""

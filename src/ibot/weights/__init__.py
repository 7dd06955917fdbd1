"""Reading weights of any known layout."""

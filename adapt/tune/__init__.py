"""The weights of the parts of fusion, tuned on the development set."""

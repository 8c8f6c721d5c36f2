"""Adding many servers at once, from pasted lines or a CSV file: read, judged line by line, then written."""

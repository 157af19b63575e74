"""`mamoe check`: a data set looked through, as a table, as JSON and as a page."""

"""The audit as one HTML page with plots; matplotlib (the extra ``report``) is imported only where a page is made."""

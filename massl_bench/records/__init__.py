"""The record of a result, and the tables that are made of records."""

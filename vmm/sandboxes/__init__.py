"""The record of a sandbox and its rules: values, limits and the store. Nothing here runs anything."""

"""The record of a sandbox and the rules that it obeys: values, limits and their store. Nothing here runs anything."""

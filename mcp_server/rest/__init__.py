"""The REST façade over the fleet and the accounts."""

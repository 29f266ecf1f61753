"""The REST API: VoidRun's routes and formats on top of the fleet and the accounts, one noun per module."""

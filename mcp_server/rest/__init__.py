"""The REST surface: VoidRun's routes and shapes over the fleet and the accounts, one noun per module."""

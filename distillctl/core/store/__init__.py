"""What several processes may write and a kill may cut short: atomic files, locks, directories of hashed shards."""

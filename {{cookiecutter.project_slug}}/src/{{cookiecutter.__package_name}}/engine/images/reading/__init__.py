"""What batches are made of: rows read from files, or cached, with the channels wanted."""

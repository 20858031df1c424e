"""What several protocols ask of labels, features and few-shot draws."""

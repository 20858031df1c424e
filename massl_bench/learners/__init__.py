"""What protocols fit and search with: neighbours, k-means, logistic regression, linear layers."""

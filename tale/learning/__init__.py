"""What is learned from data, with scikit-learn; imported by the learning server alone."""

"""From the name of a deployment to a replica that has room."""

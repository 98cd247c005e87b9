"""Attribution: decisions that wait for their rewards."""

"""What STAGE 4 looks at: the load of production, the target as it is, and what stands still at each state of the shadow."""

"""How fast a bundle is on this machine, in MLPerf's manner, and how sure each figure is."""

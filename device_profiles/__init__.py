"""Device profiles: one TOML file each, facts only; read by `edgeclin.profiles`."""

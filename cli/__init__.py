"""What a person types. A client of the HTTP API, and the launcher; imports none of the other packages."""

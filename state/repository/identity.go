package repository

import "encoding/hex"

// UniqueID tells this repository from every other, for ever: kopia gave it when the repository was made.
func (r *Repository) UniqueID() string { return hex.EncodeToString(r.repo.UniqueID()) }

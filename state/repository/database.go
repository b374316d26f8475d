package repository

import (
	"encoding/json"
	"time"
)

// DatabaseLayer describes databases/<name>/: one database server as its engine's own tools captured it.
type DatabaseLayer struct {
	Name       string `json:"name"` // in the Cluster document: "shop/ledger"
	Path       string `json:"path"` // its folder in the point: DatabasePath
	Engine     string `json:"engine"`
	Definition int    `json:"definition"` // the version of the engine's definition
	Server     string `json:"server"`     // the server's version
	Mode       string `json:"mode"`       // "logical", "physical"
	// PointInTime says that the content is one instant of the whole server.
	PointInTime bool      `json:"pointInTime"`
	Taken       time.Time `json:"taken"` // by the runner's clock, when the instant was held
	// Facts are what the engine told: its position (LSN, GTID, file and offset) among them.
	Facts  map[string]string `json:"facts"`
	Parts  []DatabasePart    `json:"parts"`
	Scopes []string          `json:"scopes,omitempty"` // what digests are computed in
	// Digests is a file with the content of every table; absent when none was computed.
	Digests *Content `json:"digests,omitempty"`
	Tables  int      `json:"tables,omitempty"` // that Digests tells of
	// Document is the database's entry of the Cluster document, and Definitions the DatabaseEngine document
	// where the engine is none of Muster's own. They hold no secret.
	Document    json.RawMessage `json:"document"`
	Definitions json.RawMessage `json:"definitions,omitempty"`
}

// DatabasePart is one stream of a database's backup.
type DatabasePart struct {
	Content
	Phase int      `json:"phase"` // parts of one phase are read together, before those of the next
	Args  []string `json:"args,omitempty"`
}

// DatabasePath is a database's folder in a point. Its name is checked when the document is read.
func DatabasePath(name string) string { return "databases/" + name }

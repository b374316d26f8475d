package repository

import (
	"context"
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
	Taken       time.Time `json:"taken"` // by the runner's clock, just before the instant: what was acknowledged by then is there
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

// DatabaseLogsLayer describes database-logs/<name>/: the files of one server's log of changes, those of earlier
// points among them.
type DatabaseLogsLayer struct {
	Name   string        `json:"name"` // of the database in the Cluster document
	Path   string        `json:"path"` // its folder in the point: DatabaseLogsPath
	Engine string        `json:"engine"`
	Taken  time.Time     `json:"taken"` // when the newest were complete
	Logs   []DatabaseLog `json:"logs"`  // in their order
}

// DatabaseLog is one file of a log.
type DatabaseLog struct {
	Content
	// From and To are positions in the engine's words, which order as text; empty for a file that is no
	// stretch of the log.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// DatabaseLogsPath is the folder of a database's logs in a point.
func DatabaseLogsPath(name string) string { return "database-logs/" + name }

// Content finds the object of a file that the signed manifest of a point names.
func (r *Repository) Content(ctx context.Context, p Point, c Content) (Object, error) {
	return r.content(ctx, p, c)
}

// Package database captures database servers with their engines' own tools, and brings them back.
//
// An engine is a definition, not code: a DatabaseEngine document whose scripts run where the tools are. A
// server is one database server of the inventory with its engine and the place of its tools. A mode is one of
// the ways in which an engine can capture: logical, physical. A backup consists of parts, each a stream that
// one call of a script writes and another reads; a session holds the instant that all parts are of, and ends
// with its input, whatever becomes of Muster. A fact is what a script tells of a backup: its position is made
// of facts. A scope is what digests are computed in: one database of a server.
//
// docs/databases.md is the specification of definitions.
package database

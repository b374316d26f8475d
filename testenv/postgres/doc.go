// Package postgres runs real PostgreSQL servers for tests, from Debian's packages, each in a folder of its
// own and reached by a socket in it.
package postgres

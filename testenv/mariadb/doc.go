// Package mariadb runs real MariaDB servers for tests, from Debian's packages, each in a folder of its own and
// reached by a socket in it alone.
package mariadb

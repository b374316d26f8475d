package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// identityRefused reports a failed proof of identity: another CA, another name, an expired
// certificate. Trying again cannot help.
func identityRefused(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
		alert        tls.AlertError
	)
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &hostname) ||
		errors.As(err, &invalid) || errors.As(err, &alert)
}

package repository

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/s3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/musterdr/muster/providers/fault"
)

func (c Config) s3(ctx context.Context, u *url.URL) (blob.Storage, error) {
	options := &s3.Options{BucketName: u.Host, Prefix: strings.TrimPrefix(u.Path, "/"), Region: c.S3.Region, Endpoint: "s3.amazonaws.com"}
	if options.Prefix != "" && !strings.HasSuffix(options.Prefix, "/") {
		options.Prefix += "/"
	}
	if c.S3.PathStyle && c.S3.Endpoint == "" {
		return nil, fault.Newf("open repository", fault.Unsupported, c.URL, "AWS is asked for buckets by host name alone: leave pathStyle out, or name another server's endpoint")
	}
	if c.S3.Endpoint != "" {
		endpoint, err := url.Parse(c.S3.Endpoint)
		if err != nil || endpoint.Host == "" {
			return nil, fault.Newf("open repository", fault.Invalid, c.S3.Endpoint, "want an endpoint as https://host:port")
		}
		options.Endpoint, options.DoNotUseTLS = endpoint.Host, endpoint.Scheme == "http"
	}
	if c.S3.CAFile != "" {
		ca, err := os.ReadFile(c.S3.CAFile)
		if err != nil {
			return nil, fault.New("read CA certificate", fault.NotFound, c.S3.CAFile, err)
		}
		options.RootCA = ca
	}
	if c.S3.CredentialsFile != "" {
		if err := exportCredentials(c.S3.CredentialsFile); err != nil {
			return nil, err
		}
	}
	if err := c.lookAtBucket(ctx, options); err != nil {
		return nil, err
	}
	storage, err := s3.New(ctx, options, false)
	return storage, c.fail("open repository", err)
}

// lookAtBucket asks for one name in the bucket, as kopia will, because kopia takes a missing bucket and
// refused credentials for an empty one.
func (c Config) lookAtBucket(ctx context.Context, options *s3.Options) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if len(options.RootCA) > 0 {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(options.RootCA) {
			return fault.Newf("read CA certificate", fault.Invalid, c.S3.CAFile, "it holds no certificate in PEM form")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	client, err := minio.New(options.Endpoint, &minio.Options{
		Creds:  credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.IAM{Client: &http.Client{Transport: http.DefaultTransport}}}),
		Secure: !options.DoNotUseTLS, Region: options.Region, Transport: transport, MaxRetries: bucketAttempts,
	})
	if err != nil {
		return fault.New("open repository", fault.Invalid, c.URL, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing after its first answer
	for object := range client.ListObjects(ctx, options.BucketName, minio.ListObjectsOptions{Prefix: options.Prefix, MaxKeys: 1}) {
		return c.bucketFault(options.BucketName, object.Err)
	}
	return nil
}

// bucketAttempts bounds the tries of the first request to an S3 server.
const bucketAttempts = 3

func (c Config) bucketFault(bucket string, err error) error {
	var unknown *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		return fault.Newf("open repository", fault.Denied, c.URL, "the server's certificate cannot be trusted: name its authority in s3.caFile: %w", unknown.Err)
	case minio.ToErrorResponse(err).Code == "NoSuchBucket":
		return fault.Newf("open repository", fault.NotFound, c.URL, "there is no bucket %q: make it first; muster makes none", bucket)
	case refusedByS3(err):
		return fault.Newf("open repository", fault.Denied, c.URL, "the server refuses the credentials (%s): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.credentialsFile, and what they may do in bucket %q",
			minio.ToErrorResponse(err).Code, bucket)
	default:
		return fault.New("open repository", fault.Transient, c.URL, err)
	}
}

// refusedByS3 knows the codes of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
// that say no to who asks.
func refusedByS3(err error) bool {
	switch minio.ToErrorResponse(err).Code {
	case "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch":
		return true
	}
	return false
}

// exportCredentials puts the [default] profile of an AWS credentials file into this process's
// environment, the one place that kopia takes them from without writing them down.
func exportCredentials(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fault.New("read credentials file", fault.NotFound, path, err)
	}
	inDefault, found := false, 0
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inDefault = line == "[default]"
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !inDefault || !ok {
			continue
		}
		switch name = strings.ToUpper(strings.TrimSpace(name)); name {
		case "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN":
			if err := os.Setenv(name, strings.TrimSpace(value)); err != nil {
				return fault.New("read credentials file", fault.Internal, path, err)
			}
			found++
		}
	}
	if found < 2 {
		return fault.Newf("read credentials file", fault.Invalid, path, "want aws_access_key_id and aws_secret_access_key in a [default] profile")
	}
	return nil
}

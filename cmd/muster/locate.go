package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// repositoryDocument makes the Repository document that the flags --repository, --key-file and
// --public-key stand for. A plain path means file://. An S3 URL's settings are its query:
// endpoint, region, pathStyle, caFile, credentialsFile.
func repositoryDocument(location, keyFile, publicKey string) (*plans.Repository, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, fault.New("read repository URL", fault.Invalid, "", fmt.Errorf("%q is not a URL", location))
	}
	if u.User != nil {
		return nil, fault.Newf("read repository URL", fault.Invalid, u.Redacted(),
			"credentials don't belong in a URL: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or credentialsFile")
	}
	keyFile, err = filepath.Abs(keyFile)
	if err != nil {
		return nil, fault.New("find key file", fault.Internal, keyFile, err)
	}
	document := &plans.Repository{Metadata: plans.Metadata{Name: "repository"}}
	document.Spec = plans.RepositorySpec{KeyFile: keyFile, PublicKey: publicKey}
	switch u.Scheme {
	case "":
		path, err := filepath.Abs(location)
		if err != nil {
			return nil, fault.New("find repository", fault.Internal, location, err)
		}
		document.Spec.URL = "file://" + path
	case "file":
		document.Spec.URL = location
	case "s3":
		if document.Spec.S3, err = s3Settings(u.Query()); err != nil {
			return nil, err
		}
		u.RawQuery = ""
		document.Spec.URL = u.String()
	default:
		return nil, fault.Newf("read repository URL", fault.Invalid, location, "want file:///path or s3://bucket/prefix")
	}
	return document, nil
}

func s3Settings(query url.Values) (plans.S3, error) {
	var s3 plans.S3
	for name := range query {
		value := query.Get(name)
		var err error
		switch name {
		case "endpoint":
			s3.Endpoint = value
		case "region":
			s3.Region = value
		case "pathStyle":
			s3.PathStyle, err = strconv.ParseBool(value)
		case "caFile":
			s3.CAFile, err = filepath.Abs(value)
		case "credentialsFile":
			s3.CredentialsFile, err = filepath.Abs(value)
		default:
			err = fmt.Errorf("unknown setting; known are endpoint, region, pathStyle, caFile, credentialsFile")
		}
		if err != nil {
			return s3, fault.New("read repository URL", fault.Invalid, name, err)
		}
	}
	return s3, nil
}

// documentFiles are the files that -f names; folders stand for their *.yaml.
func (a *app) documentFiles() ([]string, error) {
	if len(a.documents) == 0 {
		if _, err := os.Stat("muster.yaml"); err != nil {
			return nil, nil
		}
		return []string{"muster.yaml"}, nil
	}
	var files []string
	for _, path := range a.documents {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fault.New("read documents", fault.NotFound, path, err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		found, err := filepath.Glob(filepath.Join(path, "*.yaml"))
		if err != nil || len(found) == 0 {
			return nil, fault.Newf("read documents", fault.NotFound, path, "the folder holds no *.yaml")
		}
		files = append(files, found...)
	}
	return files, nil
}

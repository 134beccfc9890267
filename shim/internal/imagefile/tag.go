// SPDX-License-Identifier: Apache-2.0

package imagefile

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
)

// ParseTag completes an image's name as containerd's clients do: "app" becomes
// "docker.io/library/app:latest". A digest is not accepted.
//
// The rules are those of github.com/distribution/reference, which would cost
// every shim half a megabyte and a millisecond when it starts.
func ParseTag(tag string) (string, error) {
	name := containerd.FullName(tag)
	const (
		label = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
		hosts = `(?:` + label + `(?:\.` + label + `)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?`
		part  = `[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*`
	)
	m := regexp.MustCompile(`^(?:` + hosts + `/)?(` + part + `(?:/` + part + `)*)(?::\w[\w.-]{0,127})$`).FindStringSubmatch(name)
	switch {
	case m == nil:
		return "", fmt.Errorf("found %q, accepted: [HOST[:PORT]/]NAME[:TAG] with NAME in lower case and no digest, like registry.example.com/team/app:1.0", tag)
	case len(tag) == 64 && strings.Trim(tag, "0123456789abcdef") == "":
		return "", fmt.Errorf("found %q, accepted: a name that cannot be taken for a digest", tag)
	case len(m[1]) > 255:
		return "", fmt.Errorf("found a name of %d characters, accepted: at most 255", len(m[1]))
	}
	return name, nil
}

// SPDX-License-Identifier: Apache-2.0

// Sbom lists what is linked into libwasmshim.a, as SPDX 2.3, and collects the
// licences' texts.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	version := flag.String("version", "", "version of this library")
	epoch := flag.Int64("epoch", 0, "time that the list bears, in seconds since 1970")
	out := flag.String("out", "", "directory to write to")
	flag.Parse()
	if *version == "" || *out == "" {
		fmt.Fprintln(os.Stderr, "sbom: -version and -out are needed")
		os.Exit(2)
	}
	if err := run(*version, time.Unix(*epoch, 0).UTC(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// part is something that is linked in.
type part struct {
	name, version string
	license       string // SPDX expression
	purl          string
	texts         map[string][]byte // by name
}

func run(version string, at time.Time, out string) error {
	parts, err := modules()
	if err != nil {
		return err
	}
	for _, more := range []func() (part, error){standardLibrary, seccomp} {
		p, err := more()
		if err != nil {
			return err
		}
		parts = append(parts, p)
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	texts := filepath.Join(out, "texts")
	if err := os.MkdirAll(texts, 0o755); err != nil {
		return err
	}
	for _, p := range parts {
		for name, text := range p.texts {
			file := strings.ReplaceAll(p.name, "/", "_") + "_" + name
			if err := os.WriteFile(filepath.Join(texts, file), text, 0o600); err != nil {
				return err
			}
		}
	}
	b, err := json.MarshalIndent(document(version, at, parts), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "wasmshim.spdx.json"), append(b, '\n'), 0o600)
}

// modules are the Go modules whose packages are linked in.
func modules() ([]part, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}",
		"./cmd/libwasmshim", "./cmd/libwasmshim-init", "./cmd/wasmshim-test")
	cmd.Stderr = os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(list)), "\n")
	slices.Sort(lines)
	var parts []part
	for _, line := range slices.Compact(lines) {
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			continue
		}
		p := part{name: f[0], version: f[1], purl: "pkg:golang/" + f[0] + "@" + f[1]}
		if p.license, p.texts, err = licenses(f[2]); err != nil {
			return nil, fmt.Errorf("%s: %w", f[0], err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// licenses reads the licence files of a module's root.
func licenses(dir string) (expression string, texts map[string][]byte, _ error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, err
	}
	texts = map[string][]byte{}
	var ids []string
	for _, e := range entries {
		if e.IsDir() || !licenseFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", nil, err
		}
		texts[e.Name()] = text
		ids = append(ids, identify(text)...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return "", nil, errors.New("no licence that is known was found")
	}
	return strings.Join(ids, " AND "), texts, nil
}

// marks are what tells the licences of Go modules apart: all of the sentences,
// and none of the others.
var marks = []struct {
	id   string
	all  []string
	none []string
}{
	{"Apache-2.0", []string{"Apache License", "Version 2.0, January 2004"}, nil},
	{"MIT", []string{"Permission is hereby granted, free of charge, to any person obtaining a copy"}, nil},
	{"BSD-3-Clause", []string{"Redistribution and use in source and binary forms", "endorse or promote products derived"}, nil},
	{"BSD-2-Clause", []string{"Redistribution and use in source and binary forms"}, []string{"endorse or promote products derived"}},
	{"ISC", []string{"Permission to use, copy, modify, and/or distribute this software for any purpose"}, nil},
	{"ISC", []string{"Permission to use, copy, modify, and distribute this software for any purpose"}, nil},
	{"MPL-2.0", []string{"Mozilla Public License Version 2.0"}, nil},
	{"MPL-2.0", []string{"Mozilla Public License, version 2.0"}, nil},
	{"LGPL-2.1-only", []string{"GNU LESSER GENERAL PUBLIC LICENSE", "Version 2.1"}, nil},
	{"Unlicense", []string{"This is free and unencumbered software released into the public domain"}, nil},
	{"CC-BY-SA-4.0", []string{"Creative Commons Attribution-ShareAlike 4.0"}, nil},
}

func identify(text []byte) (ids []string) {
	flat := strings.Join(strings.Fields(string(text)), " ")
	has := func(s string) bool { return strings.Contains(flat, s) }
	for _, m := range marks {
		if !slices.ContainsFunc(m.all, func(s string) bool { return !has(s) }) && !slices.ContainsFunc(m.none, has) {
			ids = append(ids, m.id)
		}
	}
	return ids
}

func standardLibrary() (part, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return part{}, fmt.Errorf("go env: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "LICENSE"))
	if err != nil {
		return part{}, err
	}
	return part{
		name: "go", version: strings.TrimPrefix(runtime.Version(), "go"), license: "BSD-3-Clause",
		purl: "pkg:golang/std@" + strings.TrimPrefix(runtime.Version(), "go"), texts: map[string][]byte{"LICENSE": text},
	}, nil
}

// seccomp is Debian's package: the library that scripts/pack.sh links in.
func seccomp() (part, error) {
	version, err := exec.Command("pkg-config", "--modversion", "libseccomp").Output()
	if err != nil {
		return part{}, fmt.Errorf("pkg-config --modversion libseccomp: %w", err)
	}
	p := part{name: "libseccomp", version: strings.TrimSpace(string(version)), license: "LGPL-2.1-only", texts: map[string][]byte{}}
	p.purl = "pkg:generic/libseccomp@" + p.version
	for name, path := range map[string]string{
		"LGPL-2.1": "/usr/share/common-licenses/LGPL-2.1", "copyright": "/usr/share/doc/libseccomp-dev/copyright",
	} {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && name == "copyright" {
			continue // another distribution
		}
		if err != nil {
			return part{}, err
		}
		p.texts[name] = text
	}
	if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "libseccomp-dev").Output(); err == nil {
		p.version = strings.TrimSpace(string(out))
		p.purl = "pkg:deb/debian/libseccomp@" + p.version
	}
	return p, nil
}

type object = map[string]any

func document(version string, at time.Time, parts []part) object {
	const self = "SPDXRef-libwasmshim"
	packages := []object{{
		"SPDXID": self, "name": "libwasmshim", "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
		"licenseConcluded": "Apache-2.0", "licenseDeclared": "Apache-2.0", "copyrightText": "NOASSERTION",
	}}
	relations := []object{{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": self}}
	sum := sha256.New()
	for _, p := range parts {
		id := "SPDXRef-" + regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(p.name, "-")
		packages = append(packages, object{
			"SPDXID": id, "name": p.name, "versionInfo": p.version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
			"licenseConcluded": p.license, "licenseDeclared": p.license, "copyrightText": "NOASSERTION",
			"externalRefs": []object{{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": p.purl}},
		})
		relations = append(relations, object{"spdxElementId": self, "relationshipType": "STATIC_LINK", "relatedSpdxElement": id})
		_, _ = io.Copy(sum, bytes.NewReader([]byte(p.purl+"\n")))
	}
	return object{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "libwasmshim-" + version,
		"documentNamespace": fmt.Sprintf("https://libwasmshim.io/spdx/libwasmshim-%s-%x", version, sum.Sum(nil)[:16]),
		"creationInfo":      object{"created": at.Format(time.RFC3339), "creators": []string{"Organization: libwasmshim"}},
		"packages":          packages, "relationships": relations,
	}
}

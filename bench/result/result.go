// SPDX-License-Identifier: Apache-2.0

// Package result is what a bench has measured, as a file.
package result

import (
	"encoding/json"
	"os"
	"strings"
)

// Table is one measurement. The first row names the columns.
type Table struct {
	Title string     `json:"title"`
	Rows  [][]string `json:"rows"`
}

// List is all of a run's.
type List []Table

// Add adds a table of tab-separated cells.
func (l *List) Add(title string, rows []string) {
	t := Table{Title: title}
	for _, row := range rows {
		t.Rows = append(t.Rows, strings.Split(row, "\t"))
	}
	*l = append(*l, t)
}

// Write writes a file.
func (l List) Write(file string) error {
	text, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}

// Read reads what Write has written.
func Read(file string) (l List, _ error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return l, json.Unmarshal(text, &l)
}

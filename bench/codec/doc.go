// Package bench compares the codec with other libraries. It is a module of its
// own, so that they are no dependencies of the plugin.
package bench

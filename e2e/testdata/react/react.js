export const { createElement, useEffect, useRef, useState, useSyncExternalStore } = globalThis.React;

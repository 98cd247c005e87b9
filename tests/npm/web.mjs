// What a page gets as `flags` from the bundle: OpenFeature's SDK for the web, and its provider for OFREP.
export { OpenFeature } from '@openfeature/web-sdk';
export { OFREPWebProvider } from '@openfeature/ofrep-web-provider';

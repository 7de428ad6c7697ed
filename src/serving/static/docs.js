/* Swagger UI of the package fastapi-offline; validatorUrl: null, for it asks a server of its makers otherwise. */
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#calls", deepLinking: true, validatorUrl: null });

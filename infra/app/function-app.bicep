// A function app on a Flex Consumption plan of its own, which takes one app only. It reaches storage and telemetry by
// its identity; nothing here is a secret.
param name string
param planName string
param location string
param tags object
@description('The service in azure.yaml whose package azd puts here.')
param serviceName string
@description('False: no request reaches the app from the internet.')
param publicIngress bool
@description('Where ingress is closed: the address range (CIDR) that may reach the deployment endpoint; empty for nobody.')
param deployFrom string = ''
param identityId string
param identityClientId string
param hostStorageName string
param deploymentContainerName string
param applicationInsightsName string
param maximumInstanceCount int
param instanceMemoryMB int
@description('Requests an instance handles at once. The default for Python is 1.')
param httpConcurrency int = 16
param appSettings object

var deployRules = empty(deployFrom) ? [] : [
  {
    name: 'deploy'
    action: 'Allow'
    ipAddress: deployFrom
    priority: 100
  }
]

resource hostStorage 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: hostStorageName
}

resource applicationInsights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: applicationInsightsName
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: { reserved: true }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': serviceName })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    publicNetworkAccess: (publicIngress || !empty(deployFrom)) ? 'Enabled' : 'Disabled'
    siteConfig: {
      minTlsVersion: '1.2'
      http20Enabled: true
      ipSecurityRestrictionsDefaultAction: publicIngress ? 'Allow' : 'Deny'
      scmIpSecurityRestrictionsUseMain: false
      scmIpSecurityRestrictionsDefaultAction: publicIngress ? 'Allow' : 'Deny'
      scmIpSecurityRestrictions: publicIngress ? [] : deployRules
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${hostStorage.properties.primaryEndpoints.blob}${deploymentContainerName}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      scaleAndConcurrency: {
        maximumInstanceCount: maximumInstanceCount
        instanceMemoryMB: instanceMemoryMB
        alwaysReady: []
        triggers: {
          http: { perInstanceConcurrency: httpConcurrency }
        }
      }
    }
  }
}

// Deployment takes Entra identities only.
resource noBasicAuth 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = [for endpoint in ['ftp', 'scm']: {
  parent: app
  name: endpoint
  properties: { allow: false }
}]

resource settings 'Microsoft.Web/sites/config@2024-04-01' = {
  parent: app
  name: 'appsettings'
  properties: union(
    {
      AzureWebJobsStorage__credential: 'managedidentity'
      AzureWebJobsStorage__clientId: identityClientId
      AzureWebJobsStorage__blobServiceUri: hostStorage.properties.primaryEndpoints.blob
      AzureWebJobsStorage__queueServiceUri: hostStorage.properties.primaryEndpoints.queue
      AzureWebJobsStorage__tableServiceUri: hostStorage.properties.primaryEndpoints.table
      APPLICATIONINSIGHTS_CONNECTION_STRING: applicationInsights.properties.ConnectionString
      APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
    },
    appSettings
  )
}

output name string = app.name
output url string = 'https://${app.properties.defaultHostName}'

// The engine's application permissions in Microsoft Graph, and no more. Whoever deploys this must be allowed to grant
// them; it can be left out of main.bicep and deployed alone, or done by script: docs/deploy.md.
// Ids: https://learn.microsoft.com/graph/permissions-reference (application permissions).
extension microsoftGraphV1

@description('Object id of the service principal of the engine\'s identity.')
param principalId string

var appRoles = [
  '5b07b0dd-2377-4e44-a38d-703f09a0dc3c' // DeviceManagementManagedDevices.PrivilegedOperations.All
  '2f51be20-0bb4-4fed-bf7b-db946066c75e' // DeviceManagementManagedDevices.Read.All
  '06a5fe6d-c49d-46a7-b082-56b1b14103c7' // DeviceManagementServiceConfig.Read.All
  '7438b122-aefc-4978-80ed-43db9fcc7715' // Device.Read.All
  '98830695-27a2-44f7-8c18-0c3ebc9698f6' // GroupMember.Read.All
  '97235f07-e226-4f63-ace3-39588e11d3a1' // User.ReadBasic.All
  'dc377aa6-52d8-4e23-b271-2a7ae04cedf3' // DeviceManagementConfiguration.Read.All
]

resource microsoftGraph 'Microsoft.Graph/servicePrincipals@v1.0' existing = {
  appId: '00000003-0000-0000-c000-000000000000'
}

resource grants 'Microsoft.Graph/appRoleAssignedTo@v1.0' = [for appRole in appRoles: {
  appRoleId: appRole
  principalId: principalId
  resourceId: microsoftGraph.id
}]
